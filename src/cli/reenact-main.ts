/** `npm run reenact -- FILE.state.json[.gz]…`. */
import { reenactMain } from './reenact-command';

process.exitCode = reenactMain(process.argv.slice(2), {
  out: (line) => console.log(line),
  err: (line) => console.error(line),
});

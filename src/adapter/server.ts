/** The adapter outside of VS Code: on stdin and stdout, or on a port of this machine. */
import { createServer, type Server, type Socket } from 'node:net';
import { TargetError } from '../targets/target';
import { MmuScopeSession } from './session';

const LOOPBACK = new Set(['127.0.0.1', '::1', 'localhost']);

/** One session on stdin and stdout; the process ends with it. */
export function serveStdio(): void {
  const session = new MmuScopeSession();
  process.on('SIGTERM', () => session.shutdown());
  // What a library prints must not get between the messages.
  console.log = console.info = console.debug = console.error;
  session.start(process.stdin, process.stdout);
}

/**
 * A session for each connection to a port.
 * @param port 0 for any free one
 * @param host a loopback address: the protocol has no authentication, so others are refused
 * @returns the port, once it listens
 */
export function servePort(port: number, host = '127.0.0.1'): Promise<{ port: number; server: Server }> {
  if (!LOOPBACK.has(host)) {
    throw new TargetError(
      `'${host}' is not an address of this machine alone: debug sessions have no password, so only 127.0.0.1, ::1 and localhost are served`,
    );
  }
  const server = createServer((socket: Socket) => {
    if (!isLoopback(socket.remoteAddress)) {
      socket.destroy();
      return;
    }
    const session = new MmuScopeSession();
    session.setRunAsServer(true);
    socket.on('close', () => session.dispose());
    socket.on('error', () => socket.destroy());
    session.start(socket, socket);
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      const address = server.address();
      resolve({ port: typeof address === 'object' && address ? address.port : port, server });
    });
  });
}

function isLoopback(address: string | undefined): boolean {
  return address !== undefined && /^(127\.|::1$|::ffff:127\.)/.test(address);
}

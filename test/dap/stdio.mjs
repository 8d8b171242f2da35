/** What the tests start: `mmuscope dap`, as an editor would start it. */
process.argv.push('dap');
await import('../../bin/mmuscope.mjs');

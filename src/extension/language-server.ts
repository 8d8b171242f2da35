/** The language server's process: the services of src/scenario behind the Language Server Protocol. */
import { NodeFileSystem } from 'langium/node';
import { startLanguageServer } from 'langium/lsp';
import { createConnection, ProposedFeatures } from 'vscode-languageserver/node';
import { createMmuServices } from '../scenario/services';

const connection = createConnection(ProposedFeatures.all);
const { shared } = createMmuServices({ connection, ...NodeFileSystem });
startLanguageServer(shared);

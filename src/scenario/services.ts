/**
 * The language's services for an editor: a language server with a connection (src/extension/language-server.ts), or in-process
 * without one (tests, a browser).
 */
import { EmptyFileSystem, inject, type Module } from 'langium';
import {
  createDefaultModule,
  createDefaultSharedModule,
  type DefaultSharedModuleContext,
  type LangiumServices,
  type LangiumSharedServices,
  type PartialLangiumServices,
} from 'langium/lsp';
import { MmuCompletionProvider } from './editor/completion';
import { MmuFormatter } from './editor/formatter';
import { MmuHoverProvider } from './editor/hover';
import {
  MmuCodeActionProvider,
  MmuDocumentValidator,
  MmuNameProvider,
  MmuRenameProvider,
  MmuScopeComputation,
} from './editor/names-and-checks';
import { MmuDocumentSymbolProvider, MmuFoldingRangeProvider } from './editor/outline';
import { MmuSemanticTokenProvider } from './editor/semantic-tokens';
import { MmuGeneratedModule, MmuGeneratedSharedModule } from './generated/module';
import { MmuParserModule } from './syntax';

const MmuModule: Module<LangiumServices, PartialLangiumServices> = {
  references: {
    NameProvider: () => new MmuNameProvider(),
    ScopeComputation: (services) => new MmuScopeComputation(services),
  },
  validation: { DocumentValidator: () => new MmuDocumentValidator() },
  lsp: {
    CompletionProvider: (services) => new MmuCompletionProvider(services),
    HoverProvider: () => new MmuHoverProvider(),
    Formatter: () => new MmuFormatter(),
    DocumentSymbolProvider: () => new MmuDocumentSymbolProvider(),
    FoldingRangeProvider: () => new MmuFoldingRangeProvider(),
    SemanticTokenProvider: (services) => new MmuSemanticTokenProvider(services),
    RenameProvider: (services) => new MmuRenameProvider(services),
    CodeActionProvider: () => new MmuCodeActionProvider(),
  },
};

/** All services of the language. */
export interface MmuServices {
  readonly shared: LangiumSharedServices;
  readonly mmu: LangiumServices;
}

/**
 * Makes a set of services.
 * @param context a connection and a file system for a language server; none of both for in-process use
 */
export function createMmuServices(context: DefaultSharedModuleContext = EmptyFileSystem): MmuServices {
  const shared = inject(createDefaultSharedModule(context), MmuGeneratedSharedModule);
  const mmu = inject(createDefaultModule({ shared }), MmuGeneratedModule, MmuParserModule, MmuModule);
  shared.ServiceRegistry.register(mmu);
  return { shared, mmu };
}

/** Names inside one document, rename, diagnostics and quick fixes. */
import {
  DefaultNameProvider,
  DefaultScopeComputation,
  UriUtils,
  type AstNode,
  type AstNodeDescription,
  type CstNode,
  type LangiumDocument,
} from 'langium';
import type { DocumentValidator } from 'langium';
import { DefaultRenameProvider, type CodeActionProvider } from 'langium/lsp';
import {
  CodeActionKind,
  DiagnosticSeverity,
  LSPErrorCodes,
  ResponseError,
  type CodeAction,
  type CodeActionParams,
  type Diagnostic as LspDiagnostic,
  type RenameParams,
  type WorkspaceEdit,
} from 'vscode-languageserver';
import type { Scenario } from '../generated/ast';
import { checkTree } from '../parse';
import type { Diagnostic } from '../program';
import { keywords } from '../syntax';

/** Only constants and backings are names that others refer to; settings and registers have a `name` too. */
export class MmuNameProvider extends DefaultNameProvider {
  private readonly named = (node: AstNode): boolean => node.$type === 'Constant' || node.$type === 'Backing';

  override getName(node: AstNode): string | undefined {
    return this.named(node) ? super.getName(node) : undefined;
  }

  override getNameNode(node: AstNode): CstNode | undefined {
    return this.named(node) ? super.getNameNode(node) : undefined;
  }
}

/** A scenario sees its own names only. */
export class MmuScopeComputation extends DefaultScopeComputation {
  override collectExportedSymbols(): Promise<AstNodeDescription[]> {
    return Promise.resolve([]);
  }
}

/** A diagnostic as the editor wants it. */
export function toLsp(d: Diagnostic): LspDiagnostic {
  const severity = {
    error: DiagnosticSeverity.Error,
    warning: DiagnosticSeverity.Warning,
    info: DiagnosticSeverity.Information,
  }[d.severity];
  return {
    severity,
    code: d.code,
    source: 'mmu',
    message: d.message,
    range: {
      start: { line: d.line - 1, character: d.column - 1 },
      end: { line: d.endLine - 1, character: d.endColumn - 1 },
    },
  };
}

/** The findings of parseScenario(), nothing else. */
export class MmuDocumentValidator implements DocumentValidator {
  validateDocument(document: LangiumDocument): Promise<LspDiagnostic[]> {
    const result = document.parseResult as LangiumDocument<Scenario>['parseResult'];
    const { diagnostics } = checkTree(result, document.textDocument.getText(), UriUtils.basename(document.uri));
    return Promise.resolve(diagnostics.map(toLsp));
  }
}

/** Rename of constants and backings; refuses names that would not parse. */
export class MmuRenameProvider extends DefaultRenameProvider {
  override async rename(document: LangiumDocument, params: RenameParams): Promise<WorkspaceEdit | undefined> {
    const name = params.newName;
    const refuse = (why: string): never => {
      throw new ResponseError(LSPErrorCodes.RequestFailed, why);
    };
    if (!/^[A-Za-z_]\w*(?:[.-]\w+)*$/.test(name))
      refuse(`'${name}' is not a name: letters, digits and _, beginning with a letter`);
    if (keywords().includes(name)) refuse(`'${name}' is a word of the language: choose another name`);
    return super.rename(document, params);
  }
}

/** What a message proposes to write instead, if it does. */
export const proposal = (message: string): string | null => /did you mean '([^']+)'\?/.exec(message)?.[1] ?? null;

/** Quick fixes: writes what the message proposes. */
export class MmuCodeActionProvider implements CodeActionProvider {
  getCodeActions(document: LangiumDocument, params: CodeActionParams): CodeAction[] {
    const uri = document.textDocument.uri;
    return params.context.diagnostics.flatMap((d): CodeAction[] => {
      const text = proposal(d.message);
      if (text === null) return [];
      return [
        {
          title: `Change to '${text}'`,
          kind: CodeActionKind.QuickFix,
          diagnostics: [d],
          isPreferred: true,
          edit: { changes: { [uri]: [{ range: d.range, newText: text }] } },
        },
      ];
    });
  }
}

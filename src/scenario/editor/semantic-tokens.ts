/** Semantic colours: names by what they are, which the TextMate grammar cannot know. */
import type { AstNode } from 'langium';
import { AbstractSemanticTokenProvider, type SemanticTokenAcceptor } from 'langium/lsp';
import { SemanticTokenModifiers as Modifier, SemanticTokenTypes as Type } from 'vscode-languageserver';
import type {
  Backing,
  Constant,
  ControlSetting,
  EventField,
  ExpectEnd,
  ExpectErrno,
  ExpectEvent,
  ExpectFault,
  ExpectSpte,
  ExpectState,
  ExpectWhy,
  Frames,
  Insn,
  MachineSetting,
  RegisterAssignment,
  RegisterSetting,
  Term,
} from '../generated/ast';
import { meaningOf } from './hover';

type Nodes =
  | Backing
  | Constant
  | ControlSetting
  | EventField
  | ExpectEnd
  | ExpectErrno
  | ExpectEvent
  | ExpectFault
  | ExpectSpte
  | ExpectState
  | ExpectWhy
  | Frames
  | Insn
  | MachineSetting
  | RegisterAssignment
  | RegisterSetting
  | Term;

export class MmuSemanticTokenProvider extends AbstractSemanticTokenProvider {
  protected highlightElement(element: AstNode, accept: SemanticTokenAcceptor): void {
    const node = element as Nodes;
    switch (node.$type) {
      case 'MachineSetting':
        accept({ node, property: 'name', type: Type.property });
        accept({ node, property: 'values', type: Type.enumMember });
        return;
      case 'ControlSetting':
        accept({ node, property: 'name', type: Type.property });
        return;
      case 'RegisterSetting':
      case 'RegisterAssignment':
        accept({ node, property: 'name', type: Type.variable });
        return;
      case 'Constant':
        accept({ node, property: 'name', type: Type.variable, modifier: [Modifier.declaration, Modifier.readonly] });
        return;
      case 'Backing':
        accept({ node, property: 'name', type: Type.namespace, modifier: Modifier.declaration });
        return;
      case 'Frames':
        accept({ node, property: 'backing', type: Type.namespace });
        return;
      case 'Insn':
        accept({ node, property: 'op', type: Type.function });
        if (node.register !== undefined) accept({ node, property: 'register', type: Type.variable });
        return;
      case 'ExpectEvent':
        accept({ node, property: 'event', type: Type.event });
        return;
      case 'EventField':
        accept({ node, property: 'name', type: Type.property });
        if (node.word !== undefined) accept({ node, property: 'word', type: Type.enumMember });
        return;
      case 'ExpectFault':
        if (node.exception !== undefined) accept({ node, property: 'exception', type: Type.event });
        return;
      case 'ExpectState':
        accept({ node, property: 'name', type: Type.variable });
        return;
      case 'ExpectSpte':
        if (node.kind !== undefined) accept({ node, property: 'kind', type: Type.enumMember });
        return;
      case 'ExpectWhy':
        accept({ node, property: 'rule', type: Type.enumMember });
        return;
      case 'ExpectEnd':
        accept({ node, property: 'end', type: Type.enumMember });
        return;
      case 'ExpectErrno':
        accept({ node, property: 'errno', type: Type.enumMember });
        return;
      case 'Term':
        this.term(node, accept);
        return;
      default:
    }
  }

  private term(node: Term, accept: SemanticTokenAcceptor): void {
    if (node.ref === undefined) return;
    const { flags } = meaningOf(node.$container);
    const name = node.ref.$refText;
    if (flags?.some((f) => f.name === name)) accept({ node, property: 'ref', type: Type.enumMember });
    else if (node.ref.ref?.$type === 'Backing') accept({ node, property: 'ref', type: Type.namespace });
    else if (node.ref.ref?.$type === 'Constant')
      accept({ node, property: 'ref', type: Type.variable, modifier: Modifier.readonly });
    else accept({ node, property: 'ref', type: Type.enumMember });
  }
}

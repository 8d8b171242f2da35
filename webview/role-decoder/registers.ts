/** The registers that the roles are made of, as buttons that turn them over. */
import { html, type TemplateResult } from 'lit';
import { classMap } from 'lit/directives/class-map.js';
import { INPUTS } from '../../src/words/role-origins';
import { moveFocus } from '../shared/roving';
import type { View } from './view';

/** The registers that the formulas of these words mention: shown as they are, and to be turned over. */
export function renderInputs(view: View): TemplateResult {
  const wanted = new Set(view.columns.flatMap((c) => [...c.origins.values()].flatMap((f) => f.names)));
  const offered = INPUTS.filter((i) => wanted.has(i.name));
  const groups = new Map<string, typeof offered>();
  for (const input of offered) {
    const dot = input.name.indexOf('.');
    const group = dot > 0 ? input.name.slice(0, dot) : input.name.startsWith('is_') ? 'vCPU' : 'MMU';
    groups.set(group, [...(groups.get(group) ?? []), input]);
  }
  return html`<section class="inputs" aria-label="Registers that the roles are made of">
    <h2>${view.whatIf ? 'What if' : 'Registers'}</h2>
    <div class="groups" data-roving @keydown=${(e: KeyboardEvent) => moveFocus(e.currentTarget as Element, e)}>
      ${[...groups].map(
        ([group, inputs], y) =>
          html`<div class="group" role="group" aria-label=${group}>
            <span class="name">${group}</span>
            ${inputs.map((input, x) => {
              const value = view.inputs[input.name];
              const next = input.values === undefined ? (value === 1 ? 0 : 1) : after(input.values, value);
              const short = input.name.slice(input.name.indexOf('.') + 1);
              return html`<button
                class=${classMap({ chip: true, one: value !== undefined && value !== 0, unknown: value === undefined })}
                tabindex="-1"
                data-row=${y}
                data-col=${x}
                title=${`${input.name}: ${input.meaning}${value === undefined ? ' (unknown)' : ''}`}
                aria-label=${`${input.name} ${value ?? 'unknown'}, ${input.meaning}`}
                @click=${() => view.setInput(input.name, next)}
              >
                <span class="mono">${short}</span><b class="mono">${value ?? '?'}</b>
              </button>`;
            })}
          </div>`,
      )}
    </div>
  </section>`;
}

function after(values: readonly number[], value: number | undefined): number {
  const at = value === undefined ? -1 : values.indexOf(value);
  return values[(at + 1) % values.length] ?? 0;
}

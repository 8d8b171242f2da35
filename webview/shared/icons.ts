/**
 * The few pictures of the views, drawn for this project on a 16×16 grid in the colour of the text around them. Pictures never stand
 * alone: each has words beside it or is hidden from screen readers.
 */
import { svg, html, type TemplateResult } from 'lit';

const PATHS = {
  /** a device on a bus: cached MMIO */
  mmio: svg`<rect x="4.5" y="4.5" width="7" height="7" rx="1"/><path d="M6.5 4.5v-3m3 3v-3m-3 13v-3m3 3v-3m-5-5h-3m3 3h-3m13-3h-3m3 3h-3"/>`,
  /** a device with a hand of a clock: cached under a generation that is over */
  stale: svg`<circle cx="8" cy="8" r="6"/><path d="M8 4.5V8l2.5 2"/><path d="M2 14 14 2"/>`,
  table: svg`<rect x="2.5" y="2.5" width="11" height="11" rx="1"/><path d="M2.5 6h11M2.5 9.75h11M6 6v7.5"/>`,
  page: svg`<path d="M4 1.5h5.5L12.5 4.5v10h-8.5z"/><path d="M9.5 1.5v3h3"/>`,
  large: svg`<rect x="1.5" y="4.5" width="10" height="10"/><path d="M4.5 4.5v-3h10v10h-3"/>`,
  reserved: svg`<path d="M8 1.5 15 14H1z"/><path d="M8 6v4m0 1.5v1"/>`,
  up: svg`<path d="M8 13.5v-11m-4.5 4.5L8 2.5l4.5 4.5"/>`,
  down: svg`<path d="M3 6l5 5 5-5"/>`,
  right: svg`<path d="M6 3l5 5-5 5"/>`,
  copy: svg`<rect x="5.5" y="5.5" width="8" height="9" rx="1"/><path d="M10.5 5.5v-4h-8v9h3"/>`,
  memory: svg`<rect x="1.5" y="4.5" width="13" height="7" rx="1"/><path d="M4.5 4.5v7m3-7v7m3-7v7M4 14v-2.5m4 2.5v-2.5m4 2.5v-2.5"/>`,
  reset: svg`<path d="M3 3v4h4"/><path d="M3.5 7A5.5 5.5 0 1 1 2.5 9.500"/>`,
  search: svg`<circle cx="6.5" cy="6.5" r="4.5"/><path d="M10 10l4.500 4.500"/>`,
  lens: svg`<path d="M1.500 8S4 3.500 8 3.500 14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8z"/><circle cx="8" cy="8" r="2"/>`,
  pin: svg`<path d="M5.500 1.500h5v4l2 3h-9l2-3zM8 8.500v6"/>`,
} as const;

export type IconName = keyof typeof PATHS;

/** A picture for the eye only. */
export function icon(name: IconName, size = 14): TemplateResult {
  return html`<svg
    class="icon"
    aria-hidden="true"
    focusable="false"
    width=${size}
    height=${size}
    viewBox="0 0 16 16"
    fill="none"
    stroke="currentColor"
    stroke-width="1.25"
    stroke-linecap="round"
    stroke-linejoin="round"
  >
    ${PATHS[name]}
  </svg>`;
}

import type { Rule } from 'eslint';

export function whyNot(file: string, specifier: string, typeOnly?: boolean): string | undefined;
export const staircase: Rule.RuleModule;

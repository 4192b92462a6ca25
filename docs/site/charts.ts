/** Draws the tables of measurements as bars, so that a figure has one source: bench/RESULTS.md. */

import type MarkdownIt from "markdown-it";

/** A table of measurements: its first column is named `system`. */
export interface Table {
  readonly heads: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

interface Panel {
  readonly head: string;
  readonly isTime: boolean;
  readonly bars: readonly { readonly system: string; readonly text: string; readonly value: number }[];
}

/** The first column of times and the first of rates. Columns without two numbers are not drawn. */
export function panelsOf({ heads, rows }: Table): Panel[] {
  const times = heads.findIndex((head) => head.endsWith("p50"));
  const rates = heads.findIndex((head) => /\/s\b/.test(head));
  return [times, rates]
    .filter((column) => column > 0)
    .map((column) => ({
      head: heads[column]!,
      isTime: column === times,
      bars: rows
        .map((row) => ({ system: row[0]!, text: row[column]!, value: Number(row[column]!.replaceAll(" ", "")) }))
        .filter(({ value }) => value > 0),
    }))
    .filter(({ bars }) => bars.length > 1);
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}

/** Bars of one column, linear from 0. The table below has the same numbers for screen readers. */
function figureOf({ head, isTime, bars }: Panel): string {
  const longest = Math.max(...bars.map(({ value }) => value));
  const unit = isTime ? " µs" : "";
  const rows = bars.map(({ system, text, value }) => {
    const length = ((100 * value) / longest).toFixed(2);
    const isOwn = /^(?:slotbus|hub)$/.test(system) ? ' class="own"' : "";
    return `<span>${escaped(system)}</span><i${isOwn} style="--length: ${length}%"></i><b>${escaped(text)}${unit}</b>`;
  });
  const goal = isTime ? "less is better" : "more is better";
  return `<figure class="chart" aria-hidden="true"><figcaption>${escaped(head)} <small>${goal}</small></figcaption>
<div>${rows.join("\n")}</div></figure>`;
}

/** A plugin of markdown-it: puts the charts of a table of measurements above it. */
export function charts(md: MarkdownIt): void {
  md.core.ruler.push("charts", ({ tokens, Token }) => {
    for (let at = tokens.length - 1; at >= 0; at--) {
      if (tokens[at]!.type !== "table_open") continue;
      const end = tokens.findIndex(({ type }, index) => index > at && type === "table_close");
      const rows: string[][] = [];
      for (const [index, token] of tokens.slice(at, end).entries()) {
        if (token.type === "tr_open") rows.push([]);
        if (token.type === "inline" && /^t[hd]_open$/.test(tokens[at + index - 1]!.type))
          rows.at(-1)!.push(token.content);
      }
      const [heads = [], ...rest] = rows;
      if (heads[0] !== "system") continue;
      const figures = panelsOf({ heads, rows: rest }).map(figureOf);
      if (figures.length === 0) continue;
      const token = new Token("html_block", "", 0);
      token.content = `<div class="charts" v-pre>${figures.join("\n")}</div>\n`;
      tokens.splice(at, 0, token);
    }
  });
}

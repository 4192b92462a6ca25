/** Functions that browser.ts calls inside a page as `probe.…`. */

globalThis.probe = {
  /** Violations of the page's content security policy. */
  violations: [],
  /** Differs after a reload. */
  born: Math.random(),

  /** Returns the contrast (WCAG 2.2, 1.4.3) of each visible text, lowest first. */
  contrast() {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim();
      const element = walker.currentNode.parentElement;
      if (text === "" || !element.checkVisibility() || ["SCRIPT", "NOSCRIPT"].includes(element.tagName)) continue;
      const style = getComputedStyle(element);
      const colour = element instanceof SVGElement ? style.fill : style.color;
      const back = this.backOf(element);
      found.push({ text, ratio: this.ratio(this.blend(colour, back), back) });
    }
    return found.sort((a, b) => a.ratio - b.ratio);
  },

  backOf(element) {
    if (!element) return "rgb(255, 255, 255)";
    const colour = getComputedStyle(element).backgroundColor;
    return colour.startsWith("rgb(") ? colour : this.blend(colour, this.backOf(element.parentElement));
  },

  /** Returns the colour that a translucent one has on an opaque one. */
  blend(colour, back) {
    const [r, g, b, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    const below = back.match(/\d+/g).map(Number);
    const mixed = [r, g, b].map((value, at) => Math.round(value * alpha + below[at] * (1 - alpha)));
    return `rgb(${mixed.join(", ")})`;
  },

  ratio(a, b) {
    const [low, high] = [a, b].map((colour) => this.luminance(colour)).sort((one, other) => one - other);
    return (high + 0.05) / (low + 0.05);
  },

  luminance(colour) {
    const [, r, g, b] = /^rgb\((\d+), (\d+), (\d+)\)$/.exec(colour);
    const linear = [r, g, b].map((value) => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  },

  /** Returns the name of the focused element and the width and contrast of its outline; null if none has the focus. */
  focus() {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(element);
    const name = element.ariaLabel ?? element.labels?.[0]?.textContent.trim() ?? element.textContent;
    const ring = outlineStyle === "none" ? 0 : Number.parseFloat(outlineWidth);
    return { name, ring, contrast: this.ratio(outlineColor, this.backOf(element.parentElement)) };
  },

  /** Returns the states of all slots. */
  cells() {
    return [...document.querySelectorAll(".slots i")].map((cell) => cell.className);
  },

  /** Returns the number of points of a chart's line. */
  points(line) {
    return document.querySelector(`path.${line}:not(.area)`)?.getAttribute("d").split(/[ML]/).length ?? 0;
  },

  text(selector) {
    return document.querySelector(selector)?.textContent ?? "";
  },

  /** Opens a stream; its events go to `streams[path]`. */
  listen(path, types) {
    const source = new EventSource(path);
    const stream = { source, events: [], opened: 0, broken: 0 };
    this.streams[path] = stream;
    for (const type of [...types, "slotbus-lost"])
      source.addEventListener(type, ({ data, lastEventId }) => stream.events.push({ type, data, id: lastEventId }));
    source.onopen = () => stream.opened++;
    source.onerror = () => stream.broken++;
  },
  streams: {},
};

addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
  probe.violations.push(`${violatedDirective} ${blockedURI}`);
});

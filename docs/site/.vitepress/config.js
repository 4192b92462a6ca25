/** Settings of VitePress. `../build.ts` writes the pages that it reads. */

import { join } from "node:path";
import manifest from "../../../package.json" with { type: "json" };
import { charts } from "../charts.ts";
import { addressOf, groups, read, root, slugOf, titleOf } from "../pages.ts";

const place = join(root, "zig-out/site");
const reference = { text: "All exports", link: "/reference/index.html", target: "_self" };
const examples = { text: "Examples", link: "/examples" };
const icon = read("docs/site/icon.svg");

export default {
  title: manifest.name,
  description: manifest.description,
  lang: "en",
  base: process.env.SITE_BASE ?? "/",
  srcDir: join(place, "pages"),
  outDir: join(place, "html"),
  cacheDir: join(place, "cache"),
  head: [["link", { rel: "icon", href: `data:image/svg+xml,${encodeURIComponent(icon)}` }]],
  markdown: {
    html: false, // the pages have none: `<T>` is text
    linkify: false,
    anchor: { slugify: slugOf },
    theme: { light: "github-light-high-contrast", dark: "github-dark-high-contrast" },
    languageAlias: { caddy: "nginx" },
    config: (md) => void md.use(charts),
  },
  themeConfig: {
    search: { provider: "local" },
    outline: { level: [2, 3] },
    nav: [
      { text: "Start", link: "/getting-started" },
      { text: "Recipes", link: "/recipes" },
      { text: "Results", link: "/results" },
      { ...reference, text: "API" },
    ],
    sidebar: Object.entries(groups).map(([text, files]) => {
      const items = files.map((file) => ({ text: titleOf(file), link: `/${addressOf(file)}` }));
      return { text, items: text === "Reference" ? [...items, reference, examples] : items };
    }),
  },
};

"use strict";
// Light or dark: the system's setting until the button chooses one, which the browser remembers where it can.
const report = { data: JSON.parse(document.getElementById("report-data").textContent), redraw: [] };

(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");

  const stored = () => {
    try { return localStorage.getItem("gan-dist-theme"); } catch { return null; }  // refused for files by some browsers
  };
  const apply = (chosen) => {
    const theme = chosen === "dark" || chosen === "light" ? chosen : system.matches ? "dark" : "light";
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
    report.redraw.forEach((redraw) => redraw());
  };
  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("gan-dist-theme", theme); } catch { /* then it lasts until the page is closed */ }
    apply(theme);
  });
  system.addEventListener("change", () => apply(stored()));
  addEventListener("beforeprint", () => apply("light"));  // browsers leave out the dark background
  addEventListener("afterprint", () => apply(stored()));
  apply(stored());
})();

// The link of the section that is being read.
(() => {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
    const first = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === first) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-15% 0px -60% 0px" });
  for (const id of links.keys()) watch.observe(document.getElementById(id));
})();

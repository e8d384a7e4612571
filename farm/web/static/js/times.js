/** Keeps "3 min ago" true while a page is open. */
function words(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return "";
}

export function start() {
  setInterval(() => {
    for (const element of document.querySelectorAll("time[data-ago]")) {
      const text = words((Date.now() - new Date(element.dateTime)) / 1000);
      if (text && element.textContent !== text) element.textContent = text;
    }
  }, 10_000);
}

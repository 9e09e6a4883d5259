// Browsers start no worker for a page that was opened from disk. There, a hidden frame runs the worker's script (search).
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    onmessage = null;
    onerror = null;
    onmessageerror = null;

    constructor(address) {
      super();
      this.frame = document.body.appendChild(document.createElement("iframe"));
      this.frame.hidden = true;
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.#deliver("message", { data: structuredClone(data) });
      const script = inside.document.createElement("script");
      script.src = new URL(address, document.baseURI).href;
      this.loaded = new Promise((done) => (script.onload = done));
      script.onerror = () => this.#deliver("error", {});
      inside.document.head.append(script);
    }

    postMessage(message) {
      const data = structuredClone(message); // as between threads: neither side sees what the other changes later
      this.loaded.then(() => this.frame.contentWindow?.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }

    #deliver(kind, fields) {
      setTimeout(() => {
        const event = new MessageEvent(kind, fields);
        this[`on${kind}`]?.(event);
        this.dispatchEvent(event);
      });
    }
  };
}

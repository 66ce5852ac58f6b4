  const byId = id => document.getElementById(id);
  // All text is set by textContent, so that no registered value becomes markup.
  const text = value => document.createTextNode(String(value));
  const element = (tag, className, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    for (const child of children) if (child != null) made.append(typeof child === "object" ? child : text(child));
    return made;
  };
  // Write only a changed text: a screen reader may read a live region again whenever it is written.
  const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const chip = (kind, label) => element("span", `chip ${kind}`, label);
  const serviceLabel = service => service.group === "DEFAULT_GROUP" ? service.name : `${service.group}@@${service.name}`;
  const authority = key => key.ip.includes(":") ? `[${key.ip}]:${key.port}` : `${key.ip}:${key.port}`;

// What differs between two texts, word by word: a longest common subsequence of words and
// white-space, found with bit-parallel rows (Hyyrö 2004). One row per word of `b` is kept for the
// way back: 5,000 words against 5,000 (twice as many tokens) are 12 MB and some milliseconds.

const MOST_BITS = 4e8; // 50 MB of rows; longer texts are compared line by line

const WORDS = /\s+|[\p{L}\p{M}\p{N}_'’]+|[^\s\p{L}\p{M}\p{N}_'’]/gu;
const LINES = /[^\n]*\n|[^\n]+$/g;

// Parts in the order of both texts: [{ kind: "same" | "removed" | "added", text }].
export function diffWords(a, b) {
  for (const tokens of [WORDS, LINES]) {
    const parts = compare(a.match(tokens) ?? [], b.match(tokens) ?? []);
    if (parts) return calm(parts);
  }
  return joined([part("removed", a), part("added", b)]);
}

const part = (kind, text) => ({ kind, text });

// Null when the texts are too long for it.
function compare(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  const rest = Math.min(a.length, b.length) - start;
  while (end < rest && a.at(-1 - end) === b.at(-1 - end)) end += 1;
  const left = a.slice(start, a.length - end);
  const right = b.slice(start, b.length - end);
  if (left.length * right.length > MOST_BITS) return null;
  return joined([
    part("same", a.slice(0, start).join("")),
    ...path(left, right, rows(left, right)),
    part("same", end ? a.slice(-end).join("") : ""),
  ]);
}

// Row j: bit i is 0 where the common subsequence of a[..i] and b[..j] grows by one at i.
function rows(a, b) {
  const width = Math.ceil(a.length / 32);
  const where = new Map();
  a.forEach((token, at) => {
    if (!where.has(token)) where.set(token, new Uint32Array(width));
    where.get(token)[at >>> 5] |= 1 << (at & 31);
  });
  const made = [new Uint32Array(width).fill(0xffffffff)];
  for (const token of b) {
    const above = made.at(-1);
    const match = where.get(token);
    if (!match) {
      made.push(above);
      continue;
    }
    const row = new Uint32Array(width);
    let carry = 0;
    for (let at = 0; at < width; at += 1) {
      const sum = above[at] + ((above[at] & match[at]) >>> 0) + carry;
      carry = sum > 0xffffffff ? 1 : 0;
      row[at] = sum | (above[at] & ~match[at]);
    }
    made.push(row);
  }
  return made;
}

function path(a, b, made) {
  const grows = (row, at) => !((made[row][at >>> 5] >>> (at & 31)) & 1);
  const parts = [];
  let i = a.length;
  let j = b.length;
  while (i && j) {
    if (!grows(j, i - 1)) parts.push(part("removed", a[(i -= 1)]));
    else if (grows(j - 1, i - 1)) parts.push(part("added", b[(j -= 1)]));
    else {
      parts.push(part("same", a[(i -= 1)]));
      j -= 1;
    }
  }
  while (i) parts.push(part("removed", a[(i -= 1)]));
  while (j) parts.push(part("added", b[(j -= 1)]));
  return parts.reverse();
}

// Neighbours of a kind in one part; between two equal parts all that was removed, then added.
function joined(parts) {
  const result = [];
  let removed = "";
  let added = "";
  let same = "";
  const changes = () => {
    if (removed) result.push(part("removed", removed));
    if (added) result.push(part("added", added));
    removed = added = "";
  };
  for (const { kind, text } of parts) {
    if (kind === "same") {
      changes();
      same += text;
      continue;
    }
    if (same) result.push(part("same", same));
    same = "";
    if (kind === "removed") removed += text;
    else added += text;
  }
  if (same) result.push(part("same", same));
  changes();
  return result;
}

// Phrases read better than single words: a blank between two changed words belongs to the change,
// and so does what is equal by chance, much shorter than the changes around it.
function calm(parts) {
  const around = (at, by) => {
    let longest = 0;
    for (let near = at + by; parts[near] && parts[near].kind !== "same"; near += by) {
      longest = Math.max(longest, parts[near].text.length);
    }
    return longest;
  };
  const byChance = ({ kind, text }, at) =>
    kind === "same" &&
    (/^[^\S\n]+$/.test(text)
      ? at > 0 && at < parts.length - 1
      : 4 * text.length <= Math.min(around(at, -1), around(at, 1)));
  return joined(
    parts.flatMap((one, at) =>
      byChance(one, at) ? [part("removed", one.text), part("added", one.text)] : [one],
    ),
  );
}

// An order of completions: groups of letters, best first, each with the number of its place. The
// numbers may have gaps (a digit was pressed before its neighbours); only their order counts.

const ORDINALS = "first second third fourth fifth sixth seventh eighth ninth".split(" ");

// Groups from the places by letter; 0 is not placed.
export function groupsOf(places) {
  const byPlace = new Map();
  for (const [letter, place] of Object.entries(places)) {
    if (place) byPlace.set(place, [...(byPlace.get(place) ?? []), letter]);
  }
  return [...byPlace]
    .sort(([a], [b]) => a - b)
    .map(([place, letters]) => ({ place, letters: letters.sort() }));
}

// Places by letter. A group keeps its number where the order allows; a new group has place 0.
export function placesOf(groups, letters) {
  const numbers = [];
  for (const { place } of groups) numbers.push(Math.max(place, (numbers.at(-1) ?? 0) + 1));
  let most = letters.length;
  for (let at = numbers.length - 1; at >= 0; at -= 1) {
    numbers[at] = Math.min(numbers[at], most);
    most = numbers[at] - 1;
  }
  const places = Object.fromEntries(letters.map((letter) => [letter, 0]));
  groups.forEach((group, at) => group.letters.forEach((letter) => (places[letter] = numbers[at])));
  return places;
}

const indexOf = (groups, letter) => groups.findIndex((group) => group.letters.includes(letter));

// The groups after `letter` went up (-1) or down (1): out of a tie first, then past the next group.
// One without a place goes to the top or to the end. Null: it is there already.
export function moved(groups, letter, step) {
  const at = indexOf(groups, letter);
  const alone = { place: 0, letters: [letter] };
  if (at < 0) return step < 0 ? [alone, ...groups] : [...groups, alone];
  const group = groups[at];
  if (group.letters.length > 1) {
    const rest = { ...group, letters: group.letters.filter((other) => other !== letter) };
    return groups.toSpliced(at, 1, ...(step < 0 ? [alone, rest] : [rest, alone]));
  }
  const other = groups[at + step];
  if (!other) return null;
  const pair = [
    { ...group, place: other.place },
    { ...other, place: group.place },
  ];
  return groups.toSpliced(Math.min(at, at + step), 2, ...(step < 0 ? pair : pair.reverse()));
}

// The groups after that of `letter` was tied with the one above. Null: there is none above.
export function merged(groups, letter) {
  const at = indexOf(groups, letter);
  if (at < 1) return null;
  const { place, letters } = groups[at - 1];
  const both = { place, letters: [...letters, ...groups[at].letters].sort() };
  return groups.toSpliced(at - 1, 2, both);
}

// The order that ratings of completions (by letter, 0: not rated) would give.
export function groupsFromRatings(ratings) {
  const places = Object.entries(ratings).map(([letter, rating]) => [letter, rating && 8 - rating]);
  return groupsOf(Object.fromEntries(places)).map(({ letters }) => ({ place: 0, letters }));
}

const list = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

// "second, tied with A", "not placed"
export function placeInWords(groups, letter) {
  const at = indexOf(groups, letter);
  if (at < 0) return "not placed";
  const others = groups[at].letters.filter((other) => other !== letter);
  return ORDINALS[at] + (others.length ? `, tied with ${list(others)}` : "");
}

// "B > A = D > C"
export function orderInSigns(groups) {
  return groups.map(({ letters }) => letters.join(" = ")).join(" > ");
}

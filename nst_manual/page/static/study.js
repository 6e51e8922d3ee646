// Looking inside: each term's gradient as a map, a pixel under the glass, and the proof.

export function setUp() {}
export function enter() {}
export function update() {}

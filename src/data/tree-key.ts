// The random stream of a record: a 64-bit key of its id, so that a record's samples do not depend on the rest of the file.

/** FNV-1a, 64 bits, over the UTF-8 bytes of the id's string form. */
export function treeKey(id: string | number): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(String(id))) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash;
}

// The UTF-8 bytes that each token adds to a text, read off a tokenizer's decoder. The engine matches stop texts on
// them, since a character may be cut across tokens. Decoding whole texts is the tokenizer library's work.

export interface TokenizerJson {
  added_tokens?: { id: number; content: string; special?: boolean }[];
  decoder?: Decoder | null;
}

interface Decoder {
  type: string;
  decoders?: Decoder[];
  pattern?: { String?: string };
  content?: string;
  replacement?: string;
  prefix?: string;
  suffix?: string;
}

/** Bytes of ids 0 .. vocabSize end to end, offsets [vocabSize + 1]. Special tokens and unused ids are empty. */
export function bytesOfTokens(
  tokenizer: TokenizerJson,
  vocab: Record<string, number>,
  vocabSize: number,
): { bytes: Uint8Array; offsets: Int32Array } {
  const parts = new Array<Uint8Array | undefined>(vocabSize);
  const toBytes = tokenDecoder(tokenizer.decoder ?? undefined);
  for (const [token, id] of Object.entries(vocab)) if (id < vocabSize) parts[id] = toBytes(token);
  for (const { id, content, special } of tokenizer.added_tokens ?? []) {
    if (id < vocabSize) parts[id] = special ? undefined : toBytes(content);
  }
  const offsets = new Int32Array(vocabSize + 1);
  for (let id = 0; id < vocabSize; id++) offsets[id + 1] = (offsets[id] as number) + (parts[id]?.length ?? 0);
  const bytes = new Uint8Array(offsets[vocabSize] as number);
  for (let id = 0; id < vocabSize; id++) bytes.set(parts[id] ?? [], offsets[id]);
  return { bytes, offsets };
}

const encoder = new TextEncoder();
const utf8 = (text: string): Uint8Array => encoder.encode(text);

/** Follows the decoder's parts for one token. What only concerns whole texts (stripping their start) is left out. */
function tokenDecoder(decoder: Decoder | undefined): (token: string) => Uint8Array {
  // Without a decoder, and with WordPiece's, tokens are words with a space between them.
  if (!decoder) return (token) => utf8(` ${token}`);
  const steps = decoder.type === 'Sequence' ? (decoder.decoders ?? []) : [decoder];
  return (token) => {
    let text = token;
    for (const step of steps) {
      if (step.type === 'ByteLevel') return byteLevel(text) ?? utf8(text);
      if (step.type === 'ByteFallback' && /^<0x[0-9A-Fa-f]{2}>$/.test(text))
        return Uint8Array.of(Number(text.slice(1, -1)));
      if (step.type === 'Replace' && step.pattern?.String)
        text = text.replaceAll(step.pattern.String, step.content ?? '');
      if (step.type === 'Metaspace') text = text.replaceAll(step.replacement ?? '\u2581', ' ');
      if (step.type === 'BPEDecoder') text = text.replaceAll(step.suffix ?? '</w>', ' ');
      if (step.type === 'WordPiece') {
        const prefix = step.prefix ?? '##';
        text = text.startsWith(prefix) ? text.slice(prefix.length) : ` ${text}`;
      }
    }
    return utf8(text);
  };
}

/** Undefined where a character is outside the alphabet. */
function byteLevel(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  let count = 0;
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) return undefined;
    bytes[count++] = byte;
  }
  return bytes.subarray(0, count);
}

/** GPT-2's alphabet: printable bytes stand for themselves, the other 68 for U+0100 and up, in order. */
const BYTE_OF_CHARACTER = new Map<string, number>();
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  BYTE_OF_CHARACTER.set(String.fromCharCode(printable ? byte : next++), byte);
}

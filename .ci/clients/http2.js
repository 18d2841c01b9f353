// Sends the cases of a file over Node's http2, each session with other settings, and writes what came back.
//
//   node http2.js ADDRESS CASES.json
'use strict';
const http2 = require('node:http2');
const fs = require('node:fs');

const [address, file] = process.argv.slice(2);
const cases = JSON.parse(fs.readFileSync(file));
const { PADDING_STRATEGY_MAX, PADDING_STRATEGY_ALIGNED } = http2.constants;
const variants = [
  { name: 'defaults', options: {} },
  { name: 'headerTableSize 0', options: { settings: { headerTableSize: 0 } } },
  { name: 'headerTableSize 64', options: { settings: { headerTableSize: 64 } } },
  { name: 'initialWindowSize 1', options: { settings: { initialWindowSize: 1 } }, few: true },
  { name: 'initialWindowSize 0, then 5', options: { settings: { initialWindowSize: 0 } }, later: { initialWindowSize: 5 }, few: true },
  { name: 'maxFrameSize 2^24-1, window 2^31-1', options: { settings: { maxFrameSize: 2 ** 24 - 1, initialWindowSize: 2 ** 31 - 1 } } },
  { name: 'maxHeaderListSize 200', options: { settings: { maxHeaderListSize: 200 } }, trimmed: true },
  { name: 'padding, all of it', options: { paddingStrategy: PADDING_STRATEGY_MAX } },
  { name: 'padding, aligned', options: { paddingStrategy: PADDING_STRATEGY_ALIGNED } },
  { name: 'headers without a dynamic table', options: { maxDeflateDynamicTableSize: 0 } },
];

function framed(raw) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(raw.length, 1);
  return Buffer.concat([head, raw]);
}

function call(session, path, raw) {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers',
    });
    const chunks = [];
    let fields = {};
    stream.setTimeout(20000, () => reject(new Error(`no answer to ${path}`)));
    stream.on('response', (headers) => { fields = { ...fields, ...headers }; });
    stream.on('trailers', (headers) => { fields = { ...fields, ...headers }; });
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('error', reject);
    stream.on('end', () => setImmediate(() => resolve({
      code: Number(fields['grpc-status'] ?? -1),
      raw: Buffer.concat(chunks).subarray(5).toString('base64'),
      details: fields['grpc-status-details-bin'] ?? '',
    })));
    stream.end(framed(Buffer.from(raw, 'base64')));
  });
}

async function run({ name, options, later, few, trimmed }) {
  const session = http2.connect(`http://${address}`, options);
  session.on('error', (error) => { throw error; });
  const unary = [];
  // A window of one byte takes two frames of the server and one of ours for each byte of an answer.
  const all = few ? cases.unary.filter((each) => each.answer_bytes < 400).slice(0, 40) : cases.unary;
  if (later) setTimeout(() => session.settings(later), 50);
  for (let at = 0; at < all.length; at += 16) {
    unary.push(...await Promise.all(all.slice(at, at + 16).map((each) => call(session, each.path, each.raw))));
  }
  await new Promise((resolve) => session.close(resolve));
  return { name, unary, indexes: all.map((each) => each.index), frames: [], trimmed };
}

(async () => {
  const sessions = [];
  for (const variant of variants) {
    try {
      sessions.push(await run(variant));
    } catch (error) {
      throw new Error(`${variant.name}: ${error.message}`);
    }
  }
  process.stdout.write(JSON.stringify(sessions));
})().catch((error) => { console.error(error.message); process.exit(1); });

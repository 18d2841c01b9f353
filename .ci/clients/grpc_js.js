// Sends the cases of a file over grpc-js, each channel with other options, and writes what came back.
//
//   node grpc_js.js ADDRESS CASES.json PROTO_FOLDER...
'use strict';
const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, file, ...folders] = process.argv.slice(2);
const cases = JSON.parse(fs.readFileSync(file));
const variants = [
  { name: 'defaults', options: {} },
  { name: 'gzip', options: { 'grpc.default_compression_algorithm': 2, 'grpc.default_compression_level': 2 } },
  { name: 'deflate', options: { 'grpc.default_compression_algorithm': 1 } },
  { name: 'keepalive, 4 calls at a time', options: {
    'grpc.keepalive_time_ms': 10000, 'grpc.keepalive_permit_without_calls': 1, 'grpc.max_concurrent_streams': 4,
  } },
  { name: 'flow control window of 64 KiB, deadline', options: { 'grpc-node.flow_control_window': 65535 }, deadline: true },
];
const same = (value) => value;

function call(client, path, raw, deadline) {
  return new Promise((resolve) => {
    const options = deadline ? { deadline: Date.now() + 20000 } : {};
    client.makeUnaryRequest(path, same, same, Buffer.from(raw, 'base64'), new grpc.Metadata(), options, (error, answer) => {
      const details = error ? error.metadata.get('grpc-status-details-bin')[0] : undefined;
      resolve({
        code: error ? error.code : 0,
        raw: error ? '' : answer.toString('base64'),
        details: details ? details.toString('base64') : '',
      });
    });
  });
}

function converse(client, frames) {
  return new Promise((resolve, reject) => {
    const stream = client.makeBidiStreamRequest('/volcast.v1.InferenceService/StreamPredict', same, same, new grpc.Metadata());
    const answers = [];
    stream.on('data', (answer) => answers.push(answer.toString('base64')));
    stream.on('error', reject);
    stream.on('end', () => resolve(answers));
    for (const frame of frames) stream.write(Buffer.from(frame, 'base64'));
    stream.end();
  });
}

async function run({ name, options, deadline }) {
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), { ...options, 'grpc.enable_http_proxy': 0 });
  const unary = [];
  for (let at = 0; at < cases.unary.length; at += 32) {
    const part = cases.unary.slice(at, at + 32);
    unary.push(...await Promise.all(part.map((each) => call(client, each.path, each.raw, deadline))));
  }
  const frames = await converse(client, cases.frames);
  client.close();
  return { name, unary, frames };
}

// As a user writes it: the .proto at run time, names instead of bytes.
function byName() {
  const definition = loader.loadSync('volcast/v1/inference.proto', { includeDirs: folders, keepCase: true });
  const Service = grpc.loadPackageDefinition(definition).volcast.v1.InferenceService;
  const client = new Service(address, grpc.credentials.createInsecure(), { 'grpc.enable_http_proxy': 0 });
  return new Promise((resolve, reject) => {
    client.Predict({ named: { rows: [{ features: cases.named.features }] } }, (error, answer) => {
      client.close();
      if (error) reject(error); else resolve(answer.probabilities[0]);
    });
  });
}

(async () => {
  const sessions = [];
  for (const variant of variants) sessions.push(await run(variant));
  process.stdout.write(JSON.stringify({ sessions, named: await byName() }));
})().catch((error) => { console.error(error.stack); process.exit(1); });

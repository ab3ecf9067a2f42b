// node check.js: docs/asyncapi.json is a valid AsyncAPI 3.0 document without a complaint, and every fixture of the protocol
// is what its channel's schemas say, the envelope and the document in it.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');

// the packages are installed outside of the tree
const load = createRequire(path.join(process.argv[2], 'package.json'));
const { Parser, DiagnosticSeverity } = load('@asyncapi/parser');
const Ajv = load('ajv');

const root = path.join(__dirname, '..', '..');
const text = fs.readFileSync(path.join(root, 'docs', 'asyncapi.json'), 'utf8');
const document = JSON.parse(text);
const fixtures = ['v1', 'v2'].map((version) => path.join(root, 'mqtt', 'tests', 'fixtures', version));

// what the rules for everybody want and a crew of one's own has no use for
const NOT_OURS = new Set(['asyncapi-info-contact', 'asyncapi-latest-version', 'asyncapi-unused-securityScheme']);

async function main() {
  const failures = [];
  const { document: parsed, diagnostics } = await new Parser().parse(text);
  const complaints = diagnostics.filter((found) => !NOT_OURS.has(found.code));
  for (const found of complaints) {
    failures.push(`${DiagnosticSeverity[found.severity]} ${found.code} at ${found.path.join('.')}: ${found.message}`);
  }
  if (!parsed) failures.push('the parser gives no document');

  const ajv = new Ajv({ strict: false, allErrors: true });
  ajv.addSchema({ $id: 'beehive', ...document }, 'beehive');
  const channels = Object.entries(document.channels).map(([name, channel]) => {
    const pattern = channel.address.replace(/\{[a-z]+\}/g, '[a-z0-9-]+');
    return { name, pattern: new RegExp(`^${pattern}$`), message: Object.keys(channel.messages)[0] };
  });
  const used = new Set();
  let checked = 0;
  const files = fixtures.flatMap((dir) => fs.readdirSync(dir).map((name) => path.join(dir, name)));
  for (const file of files.filter((name) => name.endsWith('.txt'))) {
    const [topic, ...rest] = fs.readFileSync(file, 'utf8').split('\n');
    const bytes = rest.join('\n').trimEnd();
    const found = channels.filter((channel) => channel.pattern.test(topic));
    if (found.length !== 1) {
      failures.push(`${file}: ${topic} is of ${found.length} channels`);
      continue;
    }
    const [{ name, message }] = found;
    used.add(name);
    const check = (schema, value, what) => {
      const validate = ajv.getSchema(`beehive#${schema}`);
      if (!validate(value)) {
        failures.push(`${file}, ${what}: ${ajv.errorsText(validate.errors)}`);
      }
      // and a schema that takes anything says nothing
      if (validate({}) || validate([]) || validate(null)) failures.push(`${message}, ${what}: takes anything`);
    };
    const whole = JSON.parse(bytes);
    check(`/components/messages/${message}/payload`, whole, 'as it is on the wire');
    if (typeof whole.body === 'string') check(`/components/schemas/${message}`, JSON.parse(whole.body), 'inside');
    checked += 1;
  }
  for (const { name } of channels) if (!used.has(name)) failures.push(`no fixture is of the channel ${name}`);
  for (const failure of failures) console.error(failure);
  console.log(`${channels.length} channels, ${Object.keys(document.components.schemas).length} schemas, ${checked} fixtures, ` +
    `${diagnostics.length - complaints.length} notes that do not concern us, ${failures.length} faults`);
  process.exit(failures.length === 0 && checked > 200 ? 0 : 1);
}

main();

// A discovery-swarm without discovery that serves TCP and says its port in one line of JSON.
// It ends at the end of its input. Run from the folder that holds node_modules; the first
// argument is its id in hex.
const { createRequire } = require('module')
const load = createRequire(process.cwd() + '/')
const swarm = load('discovery-swarm')({
  id: Buffer.from(process.argv[1], 'hex'),
  discovery: false,
  dns: false,
  dht: false,
  utp: false,
  maxConnections: Infinity
})
swarm.on('error', () => {})
swarm.on('connection', (connection) => {
  connection.on('error', () => {})
  connection.resume()
})
swarm.listen(0, () => {})
swarm.once('listening', () => {
  process.stdout.write(JSON.stringify({ port: swarm.address().port }) + '\n')
})
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))

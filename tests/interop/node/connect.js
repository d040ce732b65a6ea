// One process with any number of real discovery-swarm peers that use the options `stream` and
// `connect`, driven by JSON lines as peer.js is. What passes between a swarm and the network is
// masked; a swarm sends back what its connections receive.
'use strict'

const crypto = require('crypto')
const readline = require('readline')
const { Duplex, Transform } = require('stream')
const pump = require('pump')
const discoverySwarm = require('discovery-swarm')

const swarms = new Map()

function emit (event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

// Changes every byte by its place.
function mask () {
  let at = 0
  return new Transform({
    transform (data, encoding, done) {
      const masked = Buffer.from(data)
      for (let i = 0; i < masked.length; i++) masked[i] ^= (at++ % 251) | 1
      done(null, masked)
    }
  })
}

// Ends its direction with a word.
function ending (word) {
  return new Transform({
    transform (data, encoding, done) { done(null, data) },
    flush (done) { done(null, Buffer.from(word)) }
  })
}

// The exchange of ids, as the swarm does it itself without `stream`, then an echo of so many bytes, and
// the end. Both ids are of 32 bytes.
class Echo extends Duplex {
  constructor (id, bytes) {
    super()
    this.id = id
    this.left = bytes
    this.met = false
    this.head = Buffer.alloc(0)
    this.push(Buffer.concat([Buffer.from([32]), id]))
  }

  _read () {}

  _write (data, encoding, done) {
    if (!this.met) {
      this.head = data = Buffer.concat([this.head, data])
      if (data.length < 33) return done()
      this.met = true
      if (data[0] !== 32) return done(new Error('no handshake'))
      this.emit('handshake', data.subarray(1, 33))
      data = data.subarray(33)
    }
    if (data.length) this.push(data)
    this.left -= data.length
    if (this.left === 0) this.push(null)
    done()
  }
}

const commands = {
  // start {swarm, tcp, utp, bytes, goodbye}: a swarm that listens, on a free port, and sends back so many
  // bytes, then says goodbye below the protocol
  start ({ swarm, tcp, utp, bytes, goodbye }) {
    const id = crypto.randomBytes(32)
    const sw = discoverySwarm({
      discovery: false,
      tcp,
      utp,
      id,
      stream: () => new Echo(id, bytes),
      connect: (local, remote) => pump(remote, mask(), local, ending(goodbye), mask(), remote)
    })
    swarms.set(swarm, sw)
    sw.on('connection', (stream, info) => {
      stream.on('error', () => {})
      emit('connection', { swarm, id: info.id.toString('hex'), initiator: info.initiator, type: info.type })
    })
    sw.on('connection-closed', (stream, info) => emit('connection-closed', { swarm, met: !!info.id }))
    sw.on('error', (error) => emit('error', { swarm, message: error.message }))
    sw.listen(0, () => emit('listening', { swarm, port: sw.address().port, id: id.toString('hex') }))
  },

  // addPeer {swarm, host, port}: dial a peer
  addPeer ({ swarm, host, port }) {
    swarms.get(swarm).addPeer('interop', { host, port })
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    commands[command.cmd](command)
  })
  .on('close', () => process.exit(0))

// One process with any number of real discovery-swarm peers, driven by JSON lines: commands on
// stdin, events on stdout. It ends when stdin ends, so that it never outlives its test.
'use strict'

const net = require('net')
const readline = require('readline')
const discoverySwarm = require('discovery-swarm')
const Framed = require('./framed')

const swarms = new Map()
const connections = new Map()
const streams = new WeakMap()
let lastConnection = 0

function emit (event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

const commands = {
  // start {swarm, id?, port?, maxConnections?, whitelist?, echo?, quiet?, framed?, tcp?, utp?}: a
  // swarm that listens, on a free port unless said, over TCP alone unless said; a quiet one tells
  // nothing of its connections; a framed one has the protocol of framed.js
  start ({ swarm, id, port = 0, maxConnections, whitelist, echo, quiet, framed, tcp = true, utp = false }) {
    const sw = discoverySwarm({
      discovery: false,
      tcp,
      utp,
      id: id ? Buffer.from(id, 'hex') : undefined,
      maxConnections,
      whitelist,
      stream: framed ? () => new Framed(sw.id) : undefined
    })
    swarms.set(swarm, sw)
    sw.dials = 0
    sw.met = 0
    sw.on('connecting', () => sw.dials++)
    sw.on('connection', () => sw.met++)
    if (quiet) sw.on('connection', (stream) => stream.on('error', () => {}).resume())
    else sw.on('connection', (stream, info) => onconnection(swarm, stream.app || stream, info, echo))
    sw.on('redundant-connection', (stream, info) => emit('redundant-connection', { swarm, initiator: info.initiator }))
    sw.on('peer-banned', (peer, why) => emit('peer-banned', { swarm, reason: (why || peer).reason }))
    sw.on('connect-failed', (peer) => emit('connect-failed', { swarm, port: peer.port }))
    sw.on('drop', (peer) => emit('drop', { swarm, port: peer.port }))
    sw.on('error', (error) => emit('error', { swarm, message: error.message }))
    sw.listen(port, () => emit('listening', { swarm, port: sw.address().port, id: sw.id.toString('hex') }))
  },

  // addPeer {swarm, host, port}: dial a peer
  addPeer ({ swarm, host, port }) {
    swarms.get(swarm).addPeer('interop', { host, port })
  },

  // announce {swarm, host, port, over?}: the peer is found once more, however well it is known; over
  // 'tcp' or 'utp' the swarm dials as if it had no other transport
  announce ({ swarm, host, port, over }) {
    const sw = swarms.get(swarm)
    const { _tcp, _utp } = sw
    if (over === 'utp') sw._tcp = null
    if (over === 'tcp') sw._utp = null
    sw._peersSeen = {}
    sw.addPeer('interop', { host, port })
    Object.assign(sw, { _tcp, _utp })
  },

  // removePeer {swarm, host, port}: ban a peer
  removePeer ({ swarm, host, port }) {
    swarms.get(swarm).removePeer('interop', { host, port })
  },

  // shut {swarm}: refuse TCP connections, and keep those there are; open {swarm, port}: accept them again
  shut ({ swarm }) {
    swarms.get(swarm)._tcp.close()
    emit('shut', { swarm })
  },
  open ({ swarm, port }) {
    swarms.get(swarm)._tcp.listen(port, () => emit('opened', { swarm }))
  },

  // greet {swarm}: say our id on every connection; heard {swarm}: who is connected, and what each said
  greet ({ swarm }) {
    const sw = swarms.get(swarm)
    for (const connection of sw.connections) (connection.app || connection).write(sw.id)
  },
  heard ({ swarm }) {
    const heard = {}
    for (const connection of swarms.get(swarm).connections) {
      const { info, received } = streams.get(connection.app || connection)
      heard[info.id.toString('hex')] = { received, initiator: info.initiator, type: info.type }
    }
    emit('heard', { swarm, heard })
  },

  // write {conn, hex}: send bytes
  write ({ conn, hex }) {
    connections.get(conn).stream.write(Buffer.from(hex, 'hex'))
  },

  // verify {conn, bytes}: send a pattern and compare what the other side echoes
  verify ({ conn, bytes }) {
    const sent = Buffer.alloc(bytes, Buffer.from(Array.from({ length: 251 }, (_, i) => i)))
    connections.get(conn).expected = { sent, at: 0 }
    connections.get(conn).stream.write(sent)
  },

  // end {conn}: close for writing; destroy {conn}: close at once
  end ({ conn }) {
    connections.get(conn).stream.end()
  },
  destroy ({ conn }) {
    connections.get(conn).stream.destroy()
  },

  // exit: end at once, as a process does that is killed
  exit () {
    process.exit(1)
  },

  // status {swarm}: the three counters, the dials so far and the handshakes that led to a connection
  status ({ swarm }) {
    const { connected, connecting, queued, dials, met } = swarms.get(swarm)
    emit('status', { swarm, connected, connecting, queued, dials, met })
  },

  // raw {host, port, chunks, pause}: a plain socket that writes each chunk apart
  raw ({ conn, host, port, chunks, pause }) {
    const socket = net.connect(port, host)
    socket.setNoDelay(true)
    socket.on('data', (data) => emit('data', { conn, hex: data.toString('hex') }))
    socket.on('error', (error) => emit('raw-error', { conn, message: error.message }))
    socket.on('close', () => emit('raw-closed', { conn }))
    connections.set(conn, { stream: socket })
    socket.on('connect', () => next(0))
    function next (i) {
      if (i === chunks.length) return
      socket.write(Buffer.from(chunks[i], 'hex'), () => setTimeout(next, pause, i + 1))
    }
  }
}

function onconnection (swarm, stream, info, echo) {
  const conn = ++lastConnection
  const record = { stream, info, expected: null, received: '' }
  connections.set(conn, record)
  streams.set(stream, record)
  stream.on('data', (data) => {
    // As much as a greeting has.
    if (record.received.length < 64) record.received += data.toString('hex')
    if (record.expected) compare(conn, record, data)
    else if (echo) stream.write(data)
    else emit('data', { swarm, conn, hex: data.toString('hex') })
  })
  // A uTP stream does not end by itself when its peer has ended, as a TCP socket does.
  stream.on('end', () => stream.end())
  stream.on('error', () => {})
  stream.on('close', () => {
    connections.delete(conn)
    emit('connection-closed', { swarm, conn })
  })
  emit('connection', { swarm, conn, id: info.id.toString('hex'), initiator: info.initiator, type: info.type })
}

function compare (conn, record, data) {
  const { sent, at } = record.expected
  const end = at + data.length
  if (end > sent.length || !sent.subarray(at, end).equals(data)) {
    record.expected = null
    emit('echoed', { conn, ok: false, at })
    return
  }
  record.expected.at = end
  if (end === sent.length) {
    record.expected = null
    emit('echoed', { conn, ok: true, at: end })
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    commands[command.cmd](command)
  })
  .on('close', () => process.exit(0))

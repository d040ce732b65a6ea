// One process with any number of real discovery-swarm peers, driven by JSON lines: commands on
// stdin, events on stdout. It ends when stdin ends, so that it never outlives its test.
'use strict'

const net = require('net')
const readline = require('readline')
const discoverySwarm = require('discovery-swarm')

const swarms = new Map()
const connections = new Map()
let lastConnection = 0

function emit (event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

const commands = {
  // start {swarm, id?, maxConnections?, echo?, quiet?, tcp?, utp?}: a swarm that listens on a free
  // port, over TCP alone unless said; a quiet one tells nothing of its connections
  start ({ swarm, id, maxConnections, echo, quiet, tcp = true, utp = false }) {
    const sw = discoverySwarm({
      discovery: false,
      tcp,
      utp,
      id: id ? Buffer.from(id, 'hex') : undefined,
      maxConnections
    })
    swarms.set(swarm, sw)
    if (quiet) sw.on('connection', (stream) => stream.on('error', () => {}).resume())
    else sw.on('connection', (stream, info) => onconnection(swarm, stream, info, echo))
    sw.on('redundant-connection', (stream, info) => emit('redundant-connection', { swarm, initiator: info.initiator }))
    sw.on('peer-banned', (banned) => emit('peer-banned', { swarm, reason: banned.reason }))
    sw.on('connect-failed', (peer) => emit('connect-failed', { swarm, port: peer.port }))
    sw.on('drop', (peer) => emit('drop', { swarm, port: peer.port }))
    sw.on('error', (error) => emit('error', { swarm, message: error.message }))
    sw.listen(0, () => emit('listening', { swarm, port: sw.address().port, id: sw.id.toString('hex') }))
  },

  // addPeer {swarm, host, port}: dial a peer
  addPeer ({ swarm, host, port }) {
    swarms.get(swarm).addPeer('interop', { host, port })
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

  // status {swarm}: the three counters
  status ({ swarm }) {
    const { connected, connecting, queued } = swarms.get(swarm)
    emit('status', { swarm, connected, connecting, queued })
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
  const record = { stream, expected: null }
  connections.set(conn, record)
  stream.on('data', (data) => {
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

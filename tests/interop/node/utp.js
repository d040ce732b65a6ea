// One process with libutp sockets (npm utp-native), driven by JSON lines: commands on stdin, events
// on stdout. It ends when stdin ends, so that it never outlives its test.
'use strict'

const readline = require('readline')
const utp = require('utp-native')

const servers = new Map()
const connections = new Map()
let lastConnection = 0

function emit (event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

// Byte i is (i + seed) mod 251: every test can tell where in the stream it is.
function pattern (bytes, seed) {
  const block = Buffer.from(Array.from({ length: 251 }, (_, i) => (i + seed) % 251))
  return Buffer.alloc(bytes, block)
}

function adopt (stream, mode, seed) {
  const conn = ++lastConnection
  const state = { stream, received: 0, ok: true }
  connections.set(conn, state)
  stream.on('data', (data) => {
    if (seed !== undefined) {
      const skip = (state.received + seed) % 251
      state.ok = state.ok && data.equals(pattern(data.length, skip))
    }
    state.received += data.length
    if (mode === 'echo') stream.write(data)
    if (mode === 'destroy') stream.destroy()
  })
  stream.on('end', () => {
    emit('ended', { conn, bytes: state.received, ok: state.ok })
    if (mode === 'echo' || mode === 'sink') stream.end()
  })
  stream.on('error', (error) => emit('error', { conn, code: error.code || error.message }))
  stream.on('close', () => {
    connections.delete(conn)
    emit('closed', { conn, bytes: state.received })
  })
  return conn
}

const commands = {
  // listen {server, mode}: accept at a free port; connections echo, sink, are destroyed at their
  // first data, or are left to commands ('manual'); with a seed, what comes is compared with the
  // pattern of that seed
  listen ({ server, mode, seed }) {
    const socket = utp.createServer({ allowHalfOpen: true })
    servers.set(server, socket)
    socket.on('connection', (stream) => {
      const conn = adopt(stream, mode, seed)
      emit('connection', { server, conn, port: stream.remotePort })
    })
    socket.on('error', (error) => emit('error', { server, code: error.code || error.message }))
    socket.listen(0, '127.0.0.1', () => emit('listening', { server, port: socket.address().port }))
  },

  // connect {tag, port, mode}: dial; libutp speaks first, so it is connected for real once data flows
  connect ({ tag, port, mode, seed }) {
    const stream = utp.connect(port, '127.0.0.1', { allowHalfOpen: true })
    const conn = adopt(stream, mode, seed)
    emit('dialling', { tag, conn })
    stream.on('connect', () => emit('connected', { tag, conn }))
  },

  // send {conn, bytes, seed, end}: send a pattern, then end the direction if asked to
  send ({ conn, bytes, seed, end }) {
    const { stream } = connections.get(conn)
    const data = pattern(bytes, seed)
    const step = 1 << 18
    let at = 0
    const more = () => {
      while (at < data.length) {
        const chunk = data.subarray(at, at += step)
        if (!stream.write(chunk) && at < data.length) return stream.once('drain', more)
      }
      if (end) stream.end()
      emit('queued', { conn })
    }
    more()
  },

  end ({ conn }) {
    connections.get(conn).stream.end()
  },
  destroy ({ conn }) {
    connections.get(conn).stream.destroy()
  },

  // vanish: die without a word to anybody
  vanish () {
    process.kill(process.pid, 'SIGKILL')
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    commands[command.cmd](command)
  })
  .on('close', () => process.exit(0))

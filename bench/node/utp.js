// One side of a uTP job on libutp (npm utp-native): `serve JOB`, or `drive JOB PORT FLOWS UNITS` with 0
// units for as many as there is time for. Run from the folder that holds node_modules.
//
// It says {"port"} or {"ready"} first, answers every line it reads with what it has counted, starts to
// drive with the first line, begins nothing new after a line `stop`, and ends with its input.
'use strict'

const { createRequire } = require('module')
const readline = require('readline')
const utp = createRequire(process.cwd() + '/')('utp-native')

const [role, job, port, flows, units] = process.argv.slice(1)
const FRAME = 33
const MARK = Buffer.from('a client')
const SERVER_FRAME = Buffer.from('\x20the server of the comparison....')
const counted = { done: 0, frames: 0, bytes: 0, ended: 0, errors: 0, over: false, cpu: 0 }
let begun = null

// Nobody listens any more: it is over.
process.stdout.on('error', () => process.exit(0))

function say (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

function begin () {
  begun = begun || process.cpuUsage()
}

function answer () {
  if (begun) {
    const spent = process.cpuUsage(begun)
    counted.cpu = spent.user + spent.system
  }
  say(counted)
}

// As large as those of the others.
function sizes (socket) {
  socket.setRecvBufferSize(4 << 20)
  socket.setSendBufferSize(1 << 20)
}

// Calls back with the first frame of a stream, and counts what follows.
function greet (stream, check) {
  let head = Buffer.alloc(0)
  stream.on('data', (data) => {
    if (head === null) {
      counted.bytes += data.length
      return
    }
    head = Buffer.concat([head, data])
    if (head.length < FRAME) return
    const frame = head.subarray(0, FRAME)
    counted.bytes += head.length - FRAME
    head = null
    check(frame)
  })
}

function serve () {
  const server = utp.createServer({ allowHalfOpen: true })
  server.on('connection', (stream) => {
    begin()
    greet(stream, (frame) => {
      if (frame[0] === FRAME - 1 && frame.subarray(1, 1 + MARK.length).equals(MARK)) counted.frames++
      else counted.errors++
    })
    stream.on('end', () => {
      counted.ended++
      stream.end()
    })
    stream.on('error', () => counted.errors++)
    stream.write(SERVER_FRAME)
  })
  server.listen(0, '0.0.0.0', () => {
    sizes(server)
    say({ port: server.address().port })
  })
}

let left = units === '0' ? Infinity : Number(units)
let open = 0
let number = 0

function hello () {
  const frame = Buffer.alloc(FRAME)
  frame[0] = FRAME - 1
  MARK.copy(frame, 1)
  frame.writeDoubleLE(++number, 9)
  frame.writeDoubleLE(process.pid, 17)
  return frame
}

function take () {
  if (left <= 0) return false
  left--
  return true
}

// One connection after the other from one socket; the caller took the right to the first unit.
function connect (socket) {
  const [to, host] = port.split('@')
  const stream = socket.connect(Number(to), host, { allowHalfOpen: true })
  let over = false
  open++
  const end = (failed) => {
    if (over) return
    over = true
    open--
    if (failed) {
      counted.errors++
      if (job !== 'bulk' && take()) connect(socket)
    }
    counted.over = left <= 0 && open === 0
  }
  stream.on('error', () => end(true))
  stream.on('end', () => end(false))
  greet(stream, (frame) => {
    if (!frame.equals(SERVER_FRAME)) return end(true)
    if (job === 'bulk') return fill(stream)
    counted.done++
    stream.end()
    if (take()) connect(socket)
  })
  stream.write(hello())
}

const chunk = Buffer.alloc(64 * 1024, 0x5a)

function fill (stream) {
  stream.write(chunk, () => {
    counted.done++
    if (take()) fill(stream)
    else stream.end()
  })
}

function drive () {
  begin()
  for (let flow = 0; flow < Number(flows) && take(); flow++) {
    const socket = utp({ allowHalfOpen: true })
    socket.bind(0)
    sizes(socket)
    connect(socket)
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    if (line === 'stop') left = 0
    if (role === 'drive' && !begun) drive()
    if (open === 0) counted.over = left <= 0
    answer()
  })
  .on('close', () => process.exit(0))

if (role === 'serve') serve()
else say({ ready: true })

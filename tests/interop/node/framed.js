// A protocol of an application's own, for the option `stream` of discovery-swarm: frames of two
// bytes of length, big endian, and what they count. The first frame of each side is its id, the
// others are the application's, which reads and writes them as the stream `app`.
'use strict'

const { Duplex } = require('stream')

const LONGEST = 0xffff

module.exports = class Framed extends Duplex {
  constructor (id) {
    super()
    this.id = id
    this.remoteId = null
    this.rest = Buffer.alloc(0)
    this.app = new Duplex({
      read () {},
      write: (data, _, done) => {
        this.send(data)
        done()
      },
      final: (done) => {
        this.push(null)
        done()
      },
      destroy: (error, done) => {
        this.destroy()
        done(error)
      }
    })
    this.send(id)
  }

  send (data) {
    for (let at = 0; at < data.length; at += LONGEST) {
      const body = data.subarray(at, at + LONGEST)
      const frame = Buffer.alloc(2 + body.length)
      frame.writeUInt16BE(body.length)
      body.copy(frame, 2)
      this.push(frame)
    }
  }

  receive (body) {
    if (this.remoteId) return this.app.push(body)
    this.remoteId = body
    this.emit('handshake', body)
  }

  _read () {}

  _write (data, _, done) {
    this.rest = Buffer.concat([this.rest, data])
    for (;;) {
      const end = this.rest.length < 2 ? Infinity : 2 + this.rest.readUInt16BE(0)
      if (this.rest.length < end) return done()
      const body = this.rest.subarray(2, end)
      this.rest = this.rest.subarray(end)
      this.receive(body)
    }
  }

  _final (done) {
    this.app.push(null)
    done()
  }

  _destroy (error, done) {
    this.app.destroy()
    done(error)
  }
}

mod closing;
mod handshake;
mod idle;
mod pair;
mod receiving;
mod scripted;
mod transfer;

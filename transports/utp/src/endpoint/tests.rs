mod closing;
mod handshake;
mod pair;
mod receiving;
mod scripted;
mod transfer;

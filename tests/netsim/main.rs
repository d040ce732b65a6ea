//! uTP over a network in virtual time: every kind of path, golden figures, and what must hold on
//! all of them.

mod acceptance;
mod capture;
mod case;
mod golden;
mod matrix;
mod paths;
mod run;
mod share;
mod tcp;

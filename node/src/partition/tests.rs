mod answers;
mod backlog;
mod expiry;
mod moves;
mod reading;
mod restart;
mod room;
mod world;

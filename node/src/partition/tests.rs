mod answers;
mod backlog;
mod expiry;
mod moves;
mod restart;
mod room;
mod world;

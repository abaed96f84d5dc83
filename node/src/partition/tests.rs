mod backlog;
mod expiry;
mod moves;
mod restart;
mod world;

mod backlog;
mod moves;
mod restart;
mod world;

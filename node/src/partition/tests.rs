mod moves;
mod restart;
mod world;

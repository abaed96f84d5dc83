mod moves;
mod world;

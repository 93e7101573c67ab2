//! Integration tests of room `domain`: the rules, one test per sentence; the state table; and random histories against a
//! model world. One binary, since linking costs more than running.

mod deadlock;
mod deps;
mod lane;
mod lane_properties;
mod lane_world;
mod names;
mod properties;
mod rows;
mod rules;
mod rules_lane;
mod rules_stop;
mod seeded_bugs;
mod support;
mod table;
mod why;
mod world;

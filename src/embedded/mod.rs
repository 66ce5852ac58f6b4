//! A Nacos server inside this process.

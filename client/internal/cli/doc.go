// Package cli is the cape command: a file per command. It gets arguments, streams,
// environment and clock from main, returns the exit status, and ends no process.
package cli

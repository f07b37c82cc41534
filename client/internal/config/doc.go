// Package config finds out what the user wants, and where each answer came from: flags,
// environment, presets file, a development platform on this machine, in this order.
package config

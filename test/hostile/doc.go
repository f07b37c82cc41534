// Package hostile is the jail's battery: functions that try to get out, to reach
// others, to use up what everybody needs, or to leave something for the next
// connection, each run through the whole platform. After each an honest function
// must work, and nothing of the attacker may be left.
package hostile

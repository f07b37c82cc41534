// Package e2e runs the real binaries against each other, as a user would.
package e2e

import (
	"testing"

	"github.com/cape-functions/cape/test/platform"
)

func TestMain(m *testing.M) { platform.Main(m, "../..") }

// Short names for what nearly every line here uses.
var (
	start    = platform.Start
	function = platform.Function
	app      = platform.App
)

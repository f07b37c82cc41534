package token_test

import (
	"testing"
)

func TestScopes(t *testing.T) {
	const id, elsewhere = "23456789ABCDEFGHJKLMNP", "33456789ABCDEFGHJKLMNP"
	tests := []struct {
		name        string
		claims      claims
		run, manage bool
	}{
		{"login", claims{"scope": "openid profile email offline_access"}, true, true},
		{"no scope", claims{}, true, true},
		{"run", claims{"scope": "function:run"}, true, false},
		{"legacy run", claims{"scope": "function:invoke"}, true, false},
		{"deploy", claims{"scope": "openid function:deploy"}, false, true},
		{"both", claims{"scope": "function:deploy function:run"}, true, true},
		{"unknown power", claims{"scope": "function:audit"}, false, false},
		{"this function", claims{"function_id": id}, true, false},
		{"another function", claims{"function_id": elsewhere, "scope": "function:run"}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := newIssuer(t)
			v, _ := verifier(t, i)
			c, err := v.Verify(t.Context(), i.mint(t, tt.claims))
			if err != nil {
				t.Fatal(err)
			}
			if c.MayRun(id) != tt.run || c.MayManage() != tt.manage {
				t.Errorf("run %v, manage %v", c.MayRun(id), c.MayManage())
			}
		})
	}
}

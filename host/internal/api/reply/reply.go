// Package reply writes the JSON answers of every HTTP service of the host.
package reply

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/cape-functions/cape/core/wire"
)

// JSON writes v with the given status.
func JSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"answer could not be encoded","message":"","code":"internal"}`)
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client left
}

// Error writes the body of an error with the status of its code. Text is one
// line that says what happened, hint what to do about it.
func Error(w http.ResponseWriter, code, text, hint string) {
	ErrorStatus(w, wire.Status(code), code, text, hint)
}

// ErrorStatus is Error with a status of its own.
func ErrorStatus(w http.ResponseWriter, status int, code, text, hint string) {
	JSON(w, status, wire.ErrorBody{Error: text, Message: hint, Code: code})
}

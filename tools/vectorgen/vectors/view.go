package vectors

import (
	"encoding/hex"
	"reflect"
	"strings"
)

// View gives a message, a struct with cbor tags or a pointer to one, the form
// of MessageOutput: objects, lists, text and numbers, byte strings in hex
// under their key with _hex.
func View(message any) any { return viewOf(reflect.ValueOf(message)) }

func viewOf(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return viewOf(v.Elem())
	case reflect.Struct:
		out := make(map[string]any)
		for i := range v.NumField() {
			name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("cbor"), ",")
			if option == "omitempty" && v.Field(i).IsZero() {
				continue
			}
			put(out, name, v.Field(i))
		}
		return out
	case reflect.Slice:
		list := []any{}
		for i := range v.Len() {
			list = append(list, viewOf(v.Index(i)))
		}
		return list
	case reflect.String:
		return v.String()
	case reflect.Int, reflect.Int64:
		return float64(v.Int())
	default:
		return float64(v.Uint())
	}
}

func put(out map[string]any, name string, v reflect.Value) {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		if v.IsNil() {
			out[name] = nil
			return
		}
		out[name+"_hex"] = hex.EncodeToString(v.Bytes())
		return
	}
	out[name] = viewOf(v)
}

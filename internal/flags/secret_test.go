package flags

import "testing"

func TestWithoutPassword(t *testing.T) {
	for given, want := range map[string]string{
		"redis://127.0.0.1:6379":               "redis://127.0.0.1:6379",
		"redis://user:secret@127.0.0.1:6379/1": "redis://user:xxxxx@127.0.0.1:6379/1",
		"redis://:secret@127.0.0.1":            "redis://:xxxxx@127.0.0.1",
		"redis://user:se%zcret@127.0.0.1":      Hidden,
		"me:secret@127.0.0.1":                  Hidden,
		"127.0.0.1:11211":                      "127.0.0.1:11211",
	} {
		if got := WithoutPassword(given); got != want {
			t.Errorf("%s is shown as %s, want %s", given, got, want)
		}
	}
}

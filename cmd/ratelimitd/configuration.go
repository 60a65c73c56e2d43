package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/alecthomas/kong"
)

// flagsInForce returns the flags of command, whichever way they were set, with
// their values as text: without what is secret in them.
func flagsInForce(command *kong.Context) map[string]string {
	flags := map[string]string{}
	for _, flag := range command.Flags() {
		if flag.Name == "help" || flag.Name == "version" {
			continue
		}
		switch value := flag.Target.Interface().(type) {
		case []string:
			shown := make([]string, len(value))
			for i, v := range value {
				shown[i] = withoutPassword(v)
			}
			flags[flag.Name] = strings.Join(shown, " ")
		default:
			text := fmt.Sprint(value)
			if strings.Contains(flag.Name, "password") && text != "" {
				text = hidden
			}
			flags[flag.Name] = text
		}
	}
	return flags
}

// hidden is shown in place of a password.
const hidden = "xxxxx"

// withoutPassword returns v, or if it is a URL, v without its password.
func withoutPassword(v string) string {
	u, err := url.Parse(v)
	switch {
	case err == nil && u.User != nil:
		return u.Redacted()
	case err != nil && strings.Contains(v, "@"):
		return hidden
	default:
		return v
	}
}

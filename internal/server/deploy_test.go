package server

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3" // for what the file holds as Any
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // likewise
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3" // likewise
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"            // likewise
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

const deployed = "../../deploy/envoy/"

// TestDeployedEnvoy reads the Envoy configuration that operators copy as Envoy
// would, validates all of it, and has the limits beside it answer for the
// descriptors that its actions make.
func TestDeployedEnvoy(t *testing.T) {
	data, err := os.ReadFile(deployed + "envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(text, bootstrap); err != nil {
		t.Fatal(err)
	}
	if err := bootstrap.ValidateAll(); err != nil {
		t.Error(err)
	}
	var filter *ratelimitv3.RateLimit
	var routes *routev3.RouteConfiguration
	each(t, bootstrap.ProtoReflect(), func(m proto.Message) {
		if v, ok := m.(interface{ ValidateAll() error }); ok {
			if err := v.ValidateAll(); err != nil {
				t.Errorf("%T: %v", m, err)
			}
		}
		switch m := m.(type) {
		case *ratelimitv3.RateLimit:
			filter = m
		case *hcmv3.HttpConnectionManager:
			routes = m.GetRouteConfig()
		}
	})
	if filter == nil || routes == nil {
		t.Fatal("no rate limit filter, or no routes")
	}
	cluster := filter.GetRateLimitService().GetGrpcService().GetEnvoyGrpc().GetClusterName()
	found := false
	for _, c := range bootstrap.GetStaticResources().GetClusters() {
		found = found || c.GetName() == cluster
	}
	if !found {
		t.Errorf("no cluster %q", cluster)
	}

	limits, err := os.ReadFile(deployed + "ratelimit/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, Options{Config: envoyConfig(t, string(limits))})
	in := &rlsv3.RateLimitRequest{Domain: filter.GetDomain()}
	host := routes.GetVirtualHosts()[0]
	all := host.GetRateLimits()
	for _, route := range host.GetRoutes() {
		all = append(all, route.GetRoute().GetRateLimits()...)
	}
	for _, l := range all {
		var entries []string
		for _, a := range l.GetActions() {
			switch {
			case a.GetRequestHeaders() != nil:
				entries = append(entries, a.GetRequestHeaders().GetDescriptorKey()+"=alice")
			case a.GetGenericKey() != nil:
				entries = append(entries, a.GetGenericKey().GetDescriptorKey()+"="+a.GetGenericKey().GetDescriptorValue())
			case a.GetRemoteAddress() != nil:
				entries = append(entries, "remote_address=10.0.0.7")
			default:
				t.Errorf("an action that this test does not know: %v", a)
			}
		}
		in.Descriptors = append(in.Descriptors, descriptor(strings.Join(entries, ",")))
	}
	out, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), in)
	if want := "OK; OK 99 of 100/SECOND; OK 199 of 1000/MINUTE; OK 19 of 20/HOUR; OK 99 of 100/HOUR"; err != nil || shown(out) != want {
		t.Errorf("got %s, %v, want %s", shown(out), err, want)
	}
}

// each calls f for what every Any below m holds.
func each(t *testing.T, m protoreflect.Message, f func(proto.Message)) {
	t.Helper()
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Error(err)
			return
		}
		f(inner)
		each(t, inner.ProtoReflect(), f)
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { each(t, v.Message(), f); return true })
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range v.List().Len() {
				each(t, v.List().Get(i).Message(), f)
			}
		default:
			each(t, v.Message(), f)
		}
		return true
	})
}

# Tests of libauxcore_ilgpu, which puts ILGPU on the primary context.
auxcore_library_test(ilgpu_context)
add_dependencies(ilgpu_context auxcore_ilgpu)
auxcore_on_standin(ilgpu.context ilgpu_context $<TARGET_FILE:auxcore_ilgpu> standin)
auxcore_stub_driver(without_primary_contexts 0 0 cuDevicePrimaryCtxRetain)
auxcore_test_with_driver(ilgpu.old_driver ${drivers}/without_primary_contexts ilgpu_context $<TARGET_FILE:auxcore_ilgpu> old_driver)
add_test(NAME ilgpu.no_driver COMMAND ilgpu_context $<TARGET_FILE:auxcore_ilgpu> no_driver)
set_tests_properties(ilgpu.no_driver PROPERTIES SKIP_RETURN_CODE 77)

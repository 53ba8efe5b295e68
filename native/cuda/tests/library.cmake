# Tests of libauxcore, through its C ABI only.

function(auxcore_library_test name)
  add_executable(${name} ${name}.cpp)
  target_link_libraries(${name} PRIVATE auxcore ${CMAKE_DL_LIBS})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
endfunction()

# auxcore_on_standin(TEST COMMAND…): the stand-in takes the driver's place.
function(auxcore_on_standin test)
  add_test(NAME ${test} COMMAND ${ARGN})
  set_tests_properties(${test} PROPERTIES SKIP_RETURN_CODE 77 ENVIRONMENT "LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/standin")
endfunction()

auxcore_library_test(library_abi)
auxcore_library_test(library_faults)
auxcore_library_test(library_fuzz)
auxcore_library_test(library_no_driver)

auxcore_on_standin(library.abi library_abi)
auxcore_on_standin(library.abi.synchronous library_abi)
set_property(TEST library.abi.synchronous APPEND PROPERTY ENVIRONMENT AUXCORE_SYNC=1)
auxcore_on_standin(library.faults library_faults)
auxcore_on_standin(library.fuzz.one_thread library_fuzz 150000 1 1)
auxcore_on_standin(library.fuzz.four_threads library_fuzz 150000 2 4)
add_test(NAME library.no_driver COMMAND library_no_driver)
set_tests_properties(library.no_driver PROPERTIES SKIP_RETURN_CODE 77)

# On a machine with a GPU: ctest -L device.
add_test(NAME library.abi.device COMMAND library_abi)
set_tests_properties(library.abi.device PROPERTIES SKIP_RETURN_CODE 77 LABELS device)

# Tests of libauxcore, through its C ABI only.

# auxcore_library_test(NAME [LIBRARY])
function(auxcore_library_test name)
  set(library auxcore)
  if(ARGC GREATER 1)
    set(library ${ARGV1})
  endif()
  add_executable(${name} ${name}.cpp)
  target_link_libraries(${name} PRIVATE ${library} ${CMAKE_DL_LIBS})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
endfunction()

# auxcore_test_with_driver(TEST FOLDER COMMAND…): the libcuda.so.1 of that folder takes the driver's place.
function(auxcore_test_with_driver test folder)
  add_test(NAME ${test} COMMAND ${ARGN})
  set_tests_properties(${test} PROPERTIES SKIP_RETURN_CODE 77 ENVIRONMENT "LD_LIBRARY_PATH=${folder}")
endfunction()

function(auxcore_on_standin test)
  auxcore_test_with_driver(${test} ${CMAKE_BINARY_DIR}/standin ${ARGN})
endfunction()

auxcore_library_test(library_abi)
auxcore_library_test(library_ema)
auxcore_library_test(library_td)
auxcore_library_test(library_td_faults)
auxcore_library_test(library_large)
auxcore_library_test(library_faults)
auxcore_library_test(library_fuzz)
auxcore_library_test(library_driver)

foreach(test abi ema td)
  auxcore_on_standin(library.${test} library_${test})
  auxcore_on_standin(library.${test}.synchronous library_${test})
  set_property(TEST library.${test}.synchronous APPEND PROPERTY ENVIRONMENT AUXCORE_SYNC=1)
endforeach()
if(NOT AUXCORE_SANITIZE)  # many elements of what other tests check with few
  auxcore_on_standin(library.large library_large)
endif()
# On a machine with a GPU: ctest -L device.
foreach(test abi ema td large)
  add_test(NAME library.${test}.device COMMAND library_${test})
  set_tests_properties(library.${test}.device PROPERTIES SKIP_RETURN_CODE 77 LABELS device)
endforeach()
auxcore_on_standin(library.faults library_faults)
auxcore_on_standin(library.td_faults library_td_faults)
auxcore_on_standin(library.fuzz.one_thread library_fuzz 150000 1 1)
auxcore_on_standin(library.fuzz.four_threads library_fuzz 150000 2 4)

# The library without device code, whatever compiler for it there is.
set(images "")
foreach(path ${AUXCORE_PATHS})
  auxcore_image_source(${path} "" source)
  list(APPEND images ${source})
endforeach()
auxcore_add_library(auxcore_no_image none ${images})
auxcore_library_test(library_no_image auxcore_no_image)
auxcore_on_standin(library.no_image library_no_image)

# Drivers that are of no use.
set(drivers ${CMAKE_CURRENT_BINARY_DIR}/drivers)
add_test(NAME library.driver.missing COMMAND library_driver missing)
set_tests_properties(library.driver.missing PROPERTIES SKIP_RETURN_CODE 77)

file(WRITE ${drivers}/broken/libcuda.so.1 "No library, and longer than the header of one, so that the loader says what it read.\n")
auxcore_test_with_driver(library.driver.broken ${drivers}/broken library_driver broken)

# auxcore_stub_driver(NAME INIT FAILURES [LACKS]): cuInit gives INIT the first FAILURES times; the function that it lacks is not exported.
function(auxcore_stub_driver name init failures)
  set(target library_driver_${name})
  add_library(${target} SHARED library_driver_stub.cpp)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/native/cuda/include)
  target_compile_definitions(${target} PRIVATE AUXCORE_STUB_INIT=${init} AUXCORE_STUB_FAILURES=${failures})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME cuda SUFFIX .so.1 LIBRARY_OUTPUT_DIRECTORY ${drivers}/${name})
  if(ARGC GREATER 3)
    file(WRITE ${drivers}/${name}.map "{ local: ${ARGV3}; };\n")
    target_link_options(${target} PRIVATE -Wl,--version-script=${drivers}/${name}.map)
  endif()
endfunction()

foreach(function cuInit cuStreamIsCapturing cuLaunchKernel)
  auxcore_stub_driver(without_${function} 0 0 ${function})
  auxcore_test_with_driver(library.driver.lacks.${function} ${drivers}/without_${function} library_driver lacks ${function})
endforeach()
auxcore_stub_driver(starts_late 803 2)
auxcore_test_with_driver(library.driver.starts_late ${drivers}/starts_late library_driver starts_late)
auxcore_stub_driver(no_device 100 1000)
auxcore_test_with_driver(library.driver.no_device ${drivers}/no_device library_driver no_device)

# Libraries that pass for libauxcore and are not: for the managed tests of what is said then.
function(auxcore_misfit name)
  add_library(misfit_${name} SHARED misfit.cpp)
  target_compile_definitions(misfit_${name} PRIVATE ${ARGN})
  set_target_properties(misfit_${name} PROPERTIES OUTPUT_NAME auxcore LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/misfits/${name})
  add_dependencies(auxcore_misfits misfit_${name})
endfunction()

add_custom_target(auxcore_misfits)
auxcore_misfit(version AUXCORE_MISFIT_VERSION=999)
auxcore_misfit(functions AUXCORE_MISFIT_VERSION=AUXCORE_ABI_VERSION)
